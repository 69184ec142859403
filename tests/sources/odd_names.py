"""Names of objects that are easily mistaken for something else."""

ODD_NAMES = ["a b.jpg", "#1?.jpg", "100%.jpg", "%20.jpg", "größe 图.jpg", "a+b&c=d.jpg", "'\"<>.jpg", "a\\b.jpg", "~x"]
ODD_KEYS = [*ODD_NAMES, "a//b", "/a", "a/", "a/../b", "./a", "a\nb", " a ", "s3://b/c"]
