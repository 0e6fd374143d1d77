# A machine client of a Cognito user pool: its scopes, its secret kept in Secrets Manager, and, for an HTTP API, the JWT
# authorizer that takes its tokens. The secret is in Terraform's state as well: guard that like the secret.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "name" {
  description = "Identifier of the resource server; scopes are NAME/read and NAME/write"
  type        = string
  default     = "orders"
}

variable "domain_prefix" {
  description = "First label of the token endpoint's name; unique in the region"
  type        = string
}

variable "access_token_minutes" {
  description = "Life of a token. Each token is paid for, and a third of its life is the outage that nobody notices"
  type        = number
  default     = 60

  validation {
    condition     = var.access_token_minutes >= 5 && var.access_token_minutes <= 1440
    error_message = "Cognito takes 5 minutes to a day."
  }
}

variable "http_api_id" {
  description = "Id of an HTTP API that is to take these tokens; null for a REST API, whose methods name the pool themselves"
  type        = string
  default     = null
}

resource "aws_cognito_user_pool" "this" {
  name                = var.name
  deletion_protection = "ACTIVE"

  admin_create_user_config {
    allow_admin_create_user_only = true
  }
}

resource "aws_cognito_user_pool_domain" "this" {
  domain       = var.domain_prefix
  user_pool_id = aws_cognito_user_pool.this.id
}

resource "aws_cognito_resource_server" "this" {
  identifier   = var.name
  name         = var.name
  user_pool_id = aws_cognito_user_pool.this.id

  scope {
    scope_name        = "read"
    scope_description = "May read"
  }

  scope {
    scope_name        = "write"
    scope_description = "May write"
  }
}

resource "aws_cognito_user_pool_client" "caller" {
  name                                 = "${var.name}-caller"
  user_pool_id                         = aws_cognito_user_pool.this.id
  generate_secret                      = true
  allowed_oauth_flows_user_pool_client = true
  allowed_oauth_flows                  = ["client_credentials"]
  allowed_oauth_scopes                 = ["${aws_cognito_resource_server.this.identifier}/read"]
  access_token_validity                = var.access_token_minutes
  # Nobody logs in through it: without this line SRP would be allowed.
  explicit_auth_flows = ["ALLOW_REFRESH_TOKEN_AUTH"]

  token_validity_units {
    access_token = "minutes"
  }
}

resource "aws_secretsmanager_secret" "client" {
  name        = "countersign/${var.name}"
  description = "The client secret of ${var.name}-caller"
}

resource "aws_secretsmanager_secret_version" "client" {
  secret_id = aws_secretsmanager_secret.client.id
  secret_string = jsonencode({
    client_id     = aws_cognito_user_pool_client.caller.id
    client_secret = aws_cognito_user_pool_client.caller.client_secret
  })
}

data "aws_iam_policy_document" "read_secret" {
  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [aws_secretsmanager_secret.client.arn]
  }
}

resource "aws_iam_policy" "read_secret" {
  name_prefix = "countersign-read-${var.name}-"
  description = "Reads the client secret of ${var.name}-caller; for the role that countersign runs as"
  policy      = data.aws_iam_policy_document.read_secret.json
}

resource "aws_apigatewayv2_authorizer" "this" {
  count = var.http_api_id == null ? 0 : 1

  api_id           = var.http_api_id
  name             = var.name
  authorizer_type  = "JWT"
  identity_sources = ["$request.header.Authorization"]

  jwt_configuration {
    # An access token of a machine client has no aud; its client_id is compared instead.
    audience = [aws_cognito_user_pool_client.caller.id]
    issuer   = "https://${aws_cognito_user_pool.this.endpoint}"
  }
}

output "token_url" {
  # The id of a pool begins with its region.
  value = "https://${aws_cognito_user_pool_domain.this.domain}.auth.${split("_", aws_cognito_user_pool.this.id)[0]}.amazoncognito.com/oauth2/token"
}

output "client_id" {
  value = aws_cognito_user_pool_client.caller.id
}

output "secret_arn" {
  value = aws_secretsmanager_secret.client.arn
}

output "read_secret_policy_arn" {
  value = aws_iam_policy.read_secret.arn
}

output "authorizer_id" {
  description = "For the routes of the API, beside authorization_scopes"
  value       = one(aws_apigatewayv2_authorizer.this[*].id)
}
