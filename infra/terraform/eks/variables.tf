variable "name" {
  description = "Name of the cluster, and prefix of everything else."
  type        = string
  default     = "viewfinder"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "name must be 2 to 31 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "region" {
  description = "Region of the bucket of images. In another region every byte of an image costs cross-region transfer."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be a region of AWS, such as us-east-1."
  }
}

variable "zones" {
  description = "Availability zones. Three, because Qdrant has three nodes, and because spot GPUs are scarce."
  type        = list(string)
  validation {
    condition     = length(var.zones) >= 2 && length(var.zones) <= 4 && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones must be two to four different availability zones; EKS needs two."
  }
  validation {
    condition     = alltrue([for zone in var.zones : startswith(zone, var.region)])
    error_message = "zones must lie in the region."
  }
}

variable "cidr" {
  description = "Addresses of the VPC. Each zone takes an eighth for pods and nodes and a 64th for load balancers."
  type        = string
  default     = "10.0.0.0/16"
  validation {
    condition     = can(cidrhost(var.cidr, 0)) && tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 20
    error_message = "cidr must be an IPv4 block of /16 to /20."
  }
}

variable "kubernetes_version" {
  description = "Version of Kubernetes, for the cluster and its nodes."
  type        = string
  default     = "1.33"
  validation {
    condition     = can(regex("^1\\.(3[2-9]|[4-9][0-9])$", var.kubernetes_version))
    error_message = "kubernetes_version must be 1.32 or newer, without a patch level."
  }
}

variable "admin_cidrs" {
  description = "Addresses that may reach the API of Kubernetes from outside the VPC, such as your office. Empty: none may."
  type        = list(string)
  validation {
    condition     = alltrue([for cidr in var.admin_cidrs : can(cidrhost(cidr, 0)) && cidr != "0.0.0.0/0"])
    error_message = "admin_cidrs must be IPv4 blocks, and not the whole internet."
  }
}

variable "source_bucket" {
  description = "Existing bucket of the images. It is only read."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.source_bucket))
    error_message = "source_bucket must be the name of a bucket, without s3:// and without a prefix."
  }
}

variable "source_prefix" {
  description = "Prefix of the images in the bucket, such as photos/. Empty: the whole bucket. With a prefix, an object that is deleted during a run may be reported as access_denied, because S3 names what is missing only to those who may list the whole bucket."
  type        = string
  default     = ""
  validation {
    condition     = var.source_prefix == "" || can(regex("^[^/*?][^*?]*/$", var.source_prefix))
    error_message = "source_prefix must end with a slash, must not begin with one, and may not contain * or ?."
  }
}

variable "source_kms_key_arn" {
  description = "KMS key with which the images are encrypted. Null: none, or a key of S3 itself."
  type        = string
  default     = null
  validation {
    condition     = var.source_kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.source_kms_key_arn))
    error_message = "source_kms_key_arn must be the ARN of a key, not of an alias."
  }
}

variable "cpu_instance_type" {
  description = "Nodes for Qdrant, heads, decoders and replicas without a GPU. A decoder's pod takes 8 cores and 24 GiB."
  type        = string
  default     = "m7i.4xlarge"
}

variable "cpu_nodes_per_zone" {
  description = "Most nodes of cpu_instance_type in each zone. At least one runs in each."
  type        = number
  default     = 4
  validation {
    condition     = var.cpu_nodes_per_zone >= 1 && floor(var.cpu_nodes_per_zone) == var.cpu_nodes_per_zone
    error_message = "cpu_nodes_per_zone must be a whole number from 1."
  }
}

variable "gpu_instance_types" {
  description = "Nodes with one GPU, for jobs on spot and for replicas. Each must have 8 cores and 32 GiB: the autoscaler assumes that all nodes of a group are alike."
  type        = list(string)
  default     = ["g6.2xlarge", "g5.2xlarge"]
  validation {
    condition     = length(var.gpu_instance_types) > 0 && alltrue([for each in var.gpu_instance_types : endswith(each, ".2xlarge")])
    error_message = "gpu_instance_types must be of size 2xlarge."
  }
}

variable "gpu_spot_nodes" {
  description = "Most spot nodes for jobs: VIEWFINDER_ENCODERS of the overlay. None runs while no job encodes."
  type        = number
  default     = 4
  validation {
    condition     = var.gpu_spot_nodes >= 1 && floor(var.gpu_spot_nodes) == var.gpu_spot_nodes
    error_message = "gpu_spot_nodes must be a whole number from 1."
  }
}

variable "gpu_service_nodes" {
  description = "Most on-demand nodes for replicas: max_replicas in the serveConfigV2 of the overlay."
  type        = number
  default     = 8
  validation {
    condition     = var.gpu_service_nodes >= 2 && floor(var.gpu_service_nodes) == var.gpu_service_nodes
    error_message = "gpu_service_nodes must be a whole number from 2, because two replicas always run."
  }
}
