# Roles of service accounts: each pod has the rights of its account and no others.
resource "aws_iam_openid_connect_provider" "cluster" {
  url            = aws_eks_cluster.this.identity[0].oidc[0].issuer
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  issuer = replace(aws_iam_openid_connect_provider.cluster.url, "https://", "")
  bucket = "arn:${local.partition}:s3:::${var.source_bucket}"

  # Role: namespace and name of the service account.
  accounts = {
    head       = { namespace = "viewfinder", name = "head" }
    worker     = { namespace = "viewfinder", name = "worker" }
    autoscaler = { namespace = "kube-system", name = "cluster-autoscaler" }
    balancers  = { namespace = "kube-system", name = "aws-load-balancer-controller" }
    volumes    = { namespace = "kube-system", name = "ebs-csi-controller-sa" }
  }
  policies = {
    head       = data.aws_iam_policy_document.head.json
    worker     = data.aws_iam_policy_document.read.json
    autoscaler = data.aws_iam_policy_document.autoscaler.json
  }
}

data "aws_iam_policy_document" "pod_trust" {
  for_each = local.accounts
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.cluster.arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:${each.value.namespace}:${each.value.name}"]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "pods" {
  for_each           = local.accounts
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.pod_trust[each.key].json
  # README.md attaches the policy of `balancers`, which its controller publishes for each version.
  force_detach_policies = true
}

resource "aws_iam_role_policy" "pods" {
  for_each = local.policies
  name     = each.key
  role     = aws_iam_role.pods[each.key].id
  policy   = each.value
}

resource "aws_iam_role_policy_attachment" "volumes" {
  role       = aws_iam_role.pods["volumes"].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
}

# Workers and replicas read images. They need the right to list, too: without it S3 answers 403 and not 404 for an object that
# is gone.
data "aws_iam_policy_document" "read" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket]
    dynamic "condition" {
      for_each = var.source_prefix == "" ? [] : [var.source_prefix]
      content {
        test     = "StringLike"
        variable = "s3:prefix"
        values   = ["${condition.value}*"]
      }
    }
  }
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = ["${local.bucket}/${var.source_prefix}*"]
  }
  dynamic "statement" {
    for_each = var.source_kms_key_arn == null ? [] : [var.source_kms_key_arn]
    content {
      sid       = "Decrypt"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

# The head of a job lists the bucket and writes reports, into a bucket of their own: the bucket of images is only read.
data "aws_iam_policy_document" "head" {
  source_policy_documents = [data.aws_iam_policy_document.read.json]
  statement {
    sid       = "Report"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.own["reports"].arn}/*"]
  }
}

data "aws_iam_policy_document" "autoscaler" {
  statement {
    sid = "Look"
    actions = [
      "autoscaling:DescribeAutoScalingGroups",
      "autoscaling:DescribeAutoScalingInstances",
      "autoscaling:DescribeLaunchConfigurations",
      "autoscaling:DescribeScalingActivities",
      "ec2:DescribeImages",
      "ec2:DescribeInstanceTypes",
      "ec2:DescribeLaunchTemplateVersions",
      "ec2:GetInstanceTypesFromInstanceRequirements",
    ]
    resources = ["*"] # these actions know no resources
  }
  statement {
    sid       = "LookAtGroups"
    actions   = ["eks:DescribeNodegroup"]
    resources = ["arn:${local.partition}:eks:${var.region}:*:nodegroup/${var.name}/*/*"]
  }
  statement {
    sid       = "Scale"
    actions   = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
    resources = ["*"]
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/k8s.io/cluster-autoscaler/${var.name}"
      values   = ["owned"]
    }
  }
}
