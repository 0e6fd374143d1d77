# The role of a caller of an API with IAM authorisation: what countersign runs as on ECS (task role) or EKS (Pod Identity).
# It may call what is named here and nothing else.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "api_execution_arn" {
  description = "execution_arn of aws_api_gateway_rest_api or aws_apigatewayv2_api"
  type        = string
}

variable "stage" {
  description = "Name of the stage; that of an HTTP API without one is $default"
  type        = string
  default     = "$default"
}

variable "calls" {
  description = "METHOD/path of what may be called, with * as a wildcard"
  type        = list(string)
  default     = ["*/orders/*"]
}

variable "platform" {
  type    = string
  default = "ecs"

  validation {
    condition     = contains(["ecs", "eks-pod-identity"], var.platform)
    error_message = "ecs or eks-pod-identity; for IRSA see policies/trust-irsa.json."
  }
}

variable "service_account" {
  description = "With eks-pod-identity, whose pods may be the role"
  type = object({
    namespace = string
    name      = string
  })
  default = { namespace = "shop", name = "shop" }
}

data "aws_caller_identity" "here" {}

locals {
  is_eks = var.platform == "eks-pod-identity"
  conditions = local.is_eks ? tomap({
    "aws:RequestTag/kubernetes-namespace"       = var.service_account.namespace
    "aws:RequestTag/kubernetes-service-account" = var.service_account.name
    }) : tomap({
    "aws:SourceAccount" = data.aws_caller_identity.here.account_id
  })
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = local.is_eks ? ["sts:AssumeRole", "sts:TagSession"] : ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = [local.is_eks ? "pods.eks.amazonaws.com" : "ecs-tasks.amazonaws.com"]
    }

    dynamic "condition" {
      for_each = local.conditions
      content {
        test     = "StringEquals"
        variable = condition.key
        values   = [condition.value]
      }
    }
  }
}

data "aws_iam_policy_document" "invoke" {
  statement {
    actions   = ["execute-api:Invoke"]
    resources = [for call in var.calls : "${var.api_execution_arn}/${var.stage}/${call}"]
  }
}

resource "aws_iam_role" "caller" {
  name_prefix        = "countersign-"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "invoke" {
  name   = "invoke"
  role   = aws_iam_role.caller.id
  policy = data.aws_iam_policy_document.invoke.json
}

output "role_arn" {
  description = "task_role_arn of the task definition, or role_arn of aws_eks_pod_identity_association"
  value       = aws_iam_role.caller.arn
}
