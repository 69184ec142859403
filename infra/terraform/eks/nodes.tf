data "aws_iam_policy_document" "node_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "node" {
  name               = "${var.name}-node"
  assume_role_policy = data.aws_iam_policy_document.node_trust.json
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])
  role       = aws_iam_role.node.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

resource "aws_launch_template" "node" {
  name_prefix            = "${var.name}-"
  update_default_version = true

  # Pods may not take the role of their node: one hop ends at the node itself.
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # A pod of a job takes 40 GiB, for objects that Ray spills; the image with CUDA takes 10.
  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size = 150
      volume_type = "gp3"
      encrypted   = true
    }
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${var.name}-node" }
  }
}

# A group in each zone, because a volume of Qdrant can only be used in its zone: a new node must come up there.
resource "aws_eks_node_group" "cpu" {
  for_each        = aws_subnet.private
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "cpu-${each.key}"
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = [each.value.id]
  version         = var.kubernetes_version
  ami_type        = "AL2023_x86_64_STANDARD"
  capacity_type   = "ON_DEMAND"
  instance_types  = [var.cpu_instance_type]

  launch_template {
    id      = aws_launch_template.node.id
    version = aws_launch_template.node.latest_version
  }

  scaling_config {
    min_size     = 1
    desired_size = 1
    max_size     = var.cpu_nodes_per_zone
  }

  update_config {
    max_unavailable = 1
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the autoscaler's
  }

  depends_on = [aws_iam_role_policy_attachment.node, aws_eks_addon.network, aws_eks_addon.proxy]
}

locals {
  gpu_groups = {
    jobs    = { capacity = "SPOT", nodes = var.gpu_spot_nodes }
    service = { capacity = "ON_DEMAND", nodes = var.gpu_service_nodes }
  }
}

# None runs until a pod asks for a GPU.
resource "aws_eks_node_group" "gpu" {
  for_each        = local.gpu_groups
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "gpu-${each.key}"
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = [for subnet in aws_subnet.private : subnet.id]
  version         = var.kubernetes_version
  ami_type        = "AL2023_x86_64_NVIDIA"
  capacity_type   = each.value.capacity
  instance_types  = var.gpu_instance_types

  launch_template {
    id      = aws_launch_template.node.id
    version = aws_launch_template.node.latest_version
  }

  scaling_config {
    min_size     = 0
    desired_size = 0
    max_size     = each.value.nodes
  }

  update_config {
    max_unavailable = 1
  }

  # Only pods that use the GPU may start it.
  taint {
    key    = "nvidia.com/gpu"
    value  = "present"
    effect = "NO_SCHEDULE"
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the autoscaler's
  }

  depends_on = [aws_iam_role_policy_attachment.node, aws_eks_addon.network, aws_eks_addon.proxy]
}

# What the autoscaler cannot know of a group without a node. It learns type, labels and taints from AWS, but not the disk, and
# without it no pod that requests ephemeral storage would start a node.
resource "aws_autoscaling_group_tag" "gpu_disk" {
  for_each               = local.gpu_groups
  autoscaling_group_name = aws_eks_node_group.gpu[each.key].resources[0].autoscaling_groups[0].name
  tag {
    key                 = "k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"
    value               = "120Gi"
    propagate_at_launch = false
  }
}
