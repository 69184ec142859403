"""What runs on the cluster as a job: index a bucket, rebuild for another model, evaluate."""
