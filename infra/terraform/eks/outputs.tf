output "cluster_name" {
  description = "For `aws eks update-kubeconfig --name`, and for the autoscaler."
  value       = aws_eks_cluster.this.name
}

output "repository_url" {
  description = "Push the image here."
  value       = aws_ecr_repository.this.repository_url
}

output "autoscaler_role_arn" {
  description = "Role of the service account `cluster-autoscaler` in kube-system."
  value       = aws_iam_role.pods["autoscaler"].arn
}

output "vpc_id" {
  description = "For the AWS Load Balancer Controller, which cannot ask the nodes."
  value       = aws_vpc.this.id
}

output "load_balancer_role_arn" {
  description = "Role of the service account `aws-load-balancer-controller` in kube-system."
  value       = aws_iam_role.pods["balancers"].arn
}

output "snapshots_bucket" {
  description = "Bucket of Qdrant's snapshots, for its Helm values."
  value       = aws_s3_bucket.own["snapshots"].id
}

output "snapshots_user" {
  description = "User whose key goes into the Secret `qdrant-snapshots`."
  value       = aws_iam_user.snapshots.name
}

output "load_balancer_cidrs" {
  description = "Subnets of a load balancer, for the network policy of components/load-balancer: internal ones are in the private subnets."
  value = {
    internal          = [for subnet in aws_subnet.private : subnet.cidr_block]
    "internet-facing" = [for subnet in aws_subnet.public : subnet.cidr_block]
  }
}

output "kustomization" {
  description = "The gpu overlay with the names of this account, for infra/kubernetes/overlays/eks."
  value = templatefile("${path.module}/kustomization.yaml.tftpl", {
    head_role_arn   = aws_iam_role.pods["head"].arn
    worker_role_arn = aws_iam_role.pods["worker"].arn
    repository_url  = aws_ecr_repository.this.repository_url
    region          = var.region
    source          = "s3://${trimsuffix("${var.source_bucket}/${var.source_prefix}", "/")}"
    reports         = "s3://${aws_s3_bucket.own["reports"].id}"
    encoders        = var.gpu_spot_nodes
  })
}
