output "store" {
  description = "`store` of the site in sites.toml."
  value       = "s3://${aws_s3_bucket.site.id}"
}

output "backup" {
  description = "`backup` of the site in sites.toml."
  value       = "s3://${aws_s3_bucket.backup.id}"
}

output "roles" {
  description = "ARN of each role."
  value       = { for name, role in aws_iam_role.site : name => role.arn }
}
