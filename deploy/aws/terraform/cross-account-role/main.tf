# Both halves of a call into another account: in the account that owns the API the role that the caller takes on, in the
# caller's the permission to do so. HTTP APIs have no resource policies, so this is the only way in.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source                = "hashicorp/aws"
      version               = ">= 5.0"
      configuration_aliases = [aws.owner, aws.caller]
    }
  }
}

variable "caller_role_name" {
  description = "Name of the role that countersign runs as, in the caller's account"
  type        = string
}

variable "external_id" {
  description = "What countersign sends as external_id; one per caller, so that no caller can be led to use another's role"
  type        = string
}

variable "api_execution_arn" {
  description = "execution_arn of the API"
  type        = string
}

variable "stage" {
  type    = string
  default = "$default"
}

variable "role_name" {
  type    = string
  default = "api_gateway_invoke_role"
}

data "aws_iam_role" "caller" {
  provider = aws.caller
  name     = var.caller_role_name
}

data "aws_iam_policy_document" "trust" {
  provider = aws.owner

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = [data.aws_iam_role.caller.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "sts:ExternalId"
      values   = [var.external_id]
    }
  }
}

data "aws_iam_policy_document" "invoke" {
  provider = aws.owner

  statement {
    actions   = ["execute-api:Invoke"]
    resources = ["${var.api_execution_arn}/${var.stage}/*"]
  }
}

resource "aws_iam_role" "invoke" {
  provider    = aws.owner
  name        = var.role_name
  description = "Calls the API, for a caller of another account"
  # A session of a role that was itself assumed lives an hour at most.
  max_session_duration = 3600
  assume_role_policy   = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "invoke" {
  provider = aws.owner
  name     = "invoke"
  role     = aws_iam_role.invoke.id
  policy   = data.aws_iam_policy_document.invoke.json
}

data "aws_iam_policy_document" "assume" {
  provider = aws.caller

  statement {
    actions   = ["sts:AssumeRole"]
    resources = [aws_iam_role.invoke.arn]
  }
}

resource "aws_iam_role_policy" "assume" {
  provider = aws.caller
  name     = "assume-${var.role_name}"
  role     = data.aws_iam_role.caller.id
  policy   = data.aws_iam_policy_document.assume.json
}

output "role_arn" {
  description = "arn of assume_role in the caller's config"
  value       = aws_iam_role.invoke.arn
}
