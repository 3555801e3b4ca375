# One site on AWS: a private bucket, its backup, a Glue database for Athena, and three identities that
# can do what their work needs and nothing else.

terraform {
  required_version = ">= 1.8"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

resource "aws_s3_bucket" "site" {
  bucket = var.bucket
  tags   = var.tags
}

resource "aws_s3_bucket" "backup" {
  bucket              = "${var.bucket}-backup"
  object_lock_enabled = true
  tags                = var.tags
}

resource "aws_s3_bucket_public_access_block" "site" {
  bucket                  = aws_s3_bucket.site.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_public_access_block" "backup" {
  bucket                  = aws_s3_bucket.backup.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "site" {
  bucket = aws_s3_bucket.site.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_ownership_controls" "backup" {
  bucket = aws_s3_bucket.backup.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "site" {
  bucket = aws_s3_bucket.site.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "backup" {
  bucket = aws_s3_bucket.backup.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_versioning" "site" {
  bucket = aws_s3_bucket.site.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_versioning" "backup" {
  bucket = aws_s3_bucket.backup.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "site" {
  bucket     = aws_s3_bucket.site.id
  depends_on = [aws_s3_bucket_versioning.site]

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  # Deleted and replaced objects can be brought back for a while; projections replace many.
  rule {
    id     = "older-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.keep_deleted_days
    }
  }

  # Footage is read while its release is young. Logs and tables are small and read every day.
  rule {
    id     = "cold-footage"
    status = "Enabled"
    filter {
      prefix = "packs/"
    }
    transition {
      days          = var.cold_after_days
      storage_class = "GLACIER_IR"
    }
  }
}

data "aws_iam_policy_document" "transport" {
  statement {
    sid       = "OnlyEncryptedTransport"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.site.arn, "${aws_s3_bucket.site.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "site" {
  bucket = aws_s3_bucket.site.id
  policy = data.aws_iam_policy_document.transport.json
}

resource "aws_glue_catalog_database" "site" {
  name         = var.database
  location_uri = "s3://${aws_s3_bucket.site.id}/iceberg"
}

# --- identities: what each may do

data "aws_iam_policy_document" "assume" {
  statement {
    effect  = "Allow"
    actions = ["sts:AssumeRole"]
    principals {
      type        = "AWS"
      identifiers = var.trusted_arns
    }
  }
}

data "aws_iam_policy_document" "reader" {
  statement {
    sid       = "List"
    effect    = "Allow"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [aws_s3_bucket.site.arn]
  }
  statement {
    sid       = "Read"
    effect    = "Allow"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.site.arn}/*"]
  }
  statement {
    sid    = "PublicAccessCheck"
    effect = "Allow"
    actions = [
      "s3:GetBucketPublicAccessBlock",
      "s3:GetBucketPolicyStatus",
      "s3:GetBucketAcl",
    ]
    resources = [aws_s3_bucket.site.arn, aws_s3_bucket.backup.arn]
  }
  statement {
    sid       = "Tables"
    effect    = "Allow"
    actions   = ["glue:GetDatabase", "glue:GetTable", "glue:GetTables"]
    resources = local.glue_arns
  }
  statement {
    sid       = "Decrypt"
    effect    = "Allow"
    actions   = ["kms:Decrypt"]
    resources = [var.kms_key_arn]
  }
}

data "aws_iam_policy_document" "writer" {
  source_policy_documents = [data.aws_iam_policy_document.reader.json]

  statement {
    sid       = "Write"
    effect    = "Allow"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.site.arn}/*"]
  }
  # What can be made again from the logs may go; logs, packs, plans and releases may not.
  statement {
    sid       = "DeleteProjections"
    effect    = "Allow"
    actions   = ["s3:DeleteObject"]
    resources = [for prefix in local.made_again : "${aws_s3_bucket.site.arn}/${prefix}/*"]
  }
  statement {
    sid    = "CommitTables"
    effect = "Allow"
    actions = [
      "glue:CreateDatabase",
      "glue:CreateTable",
      "glue:UpdateTable",
      "glue:DeleteTable",
    ]
    resources = local.glue_arns
  }
  statement {
    sid       = "Encrypt"
    effect    = "Allow"
    actions   = ["kms:GenerateDataKey"]
    resources = [var.kms_key_arn]
  }
  # The backup takes objects and gives them back; older versions stay, and nothing but the probe is deleted.
  statement {
    sid       = "BackUp"
    effect    = "Allow"
    actions   = ["s3:PutObject", "s3:GetObject"]
    resources = ["${aws_s3_bucket.backup.arn}/*"]
  }
  statement {
    sid       = "ProbeBackup"
    effect    = "Allow"
    actions   = ["s3:DeleteObject"]
    resources = ["${aws_s3_bucket.backup.arn}/probe/*"]
  }
  statement {
    sid       = "ListBackup"
    effect    = "Allow"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.backup.arn]
  }
}

# Retention and the right to delete: a person assumes it, no daemon does.
data "aws_iam_policy_document" "janitor" {
  source_policy_documents = [data.aws_iam_policy_document.writer.json]

  statement {
    sid       = "DeleteFootage"
    effect    = "Allow"
    actions   = ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:ListBucketVersions"]
    resources = flatten([for b in [aws_s3_bucket.site, aws_s3_bucket.backup] : [b.arn, "${b.arn}/*"]])
  }
}

resource "aws_iam_role" "site" {
  for_each             = local.policies
  name                 = "${var.bucket}-${each.key}"
  assume_role_policy   = data.aws_iam_policy_document.assume.json
  max_session_duration = 3600
  tags                 = var.tags
}

resource "aws_iam_role_policy" "site" {
  for_each = local.policies
  name     = each.key
  role     = aws_iam_role.site[each.key].id
  policy   = each.value
}

locals {
  made_again = ["lance", "iceberg", "projections", "leases", "probe"]
  glue_arns = [
    "arn:aws:glue:${var.region}:${var.account}:catalog",
    "arn:aws:glue:${var.region}:${var.account}:database/${var.database}",
    "arn:aws:glue:${var.region}:${var.account}:table/${var.database}/*",
  ]
  policies = {
    reader  = data.aws_iam_policy_document.reader.json
    writer  = data.aws_iam_policy_document.writer.json
    janitor = data.aws_iam_policy_document.janitor.json
  }
}
