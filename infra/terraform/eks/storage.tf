# Images of containers.
resource "aws_ecr_repository" "this" {
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  repository = aws_ecr_repository.this.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Parts of builds that have no tag any more"
      selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 14 }
      action       = { type = "expire" }
    }]
  })
}

# Reports of runs, and snapshots of Qdrant. Not in the bucket of images, where nothing of ours writes.
data "aws_caller_identity" "current" {}

resource "aws_s3_bucket" "own" {
  for_each = toset(["reports", "snapshots"])
  bucket   = "${var.name}-${each.key}-${data.aws_caller_identity.current.account_id}"
}

resource "aws_s3_bucket_public_access_block" "own" {
  for_each                = aws_s3_bucket.own
  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "snapshots" {
  bucket = aws_s3_bucket.own["snapshots"].id
  rule {
    id     = "expire"
    status = "Enabled"
    filter {}
    # The nightly program keeps seven snapshots of the live collection; this removes those of collections that are gone.
    expiration {
      days = 90
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }
}

# Qdrant takes keys and no role. README.md makes the key, so that it is not in Terraform's state.
resource "aws_iam_user" "snapshots" {
  name = "${var.name}-snapshots"
}

data "aws_iam_policy_document" "snapshots" {
  statement {
    actions   = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [aws_s3_bucket.own["snapshots"].arn]
  }
  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${aws_s3_bucket.own["snapshots"].arn}/*"]
  }
}

resource "aws_iam_user_policy" "snapshots" {
  name   = "snapshots"
  user   = aws_iam_user.snapshots.name
  policy = data.aws_iam_policy_document.snapshots.json
}
