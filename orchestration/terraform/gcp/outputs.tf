output "store" {
  description = "`store` of the site in sites.toml."
  value       = "gs://${google_storage_bucket.site.name}"
}

output "backup" {
  description = "`backup` of the site in sites.toml."
  value       = "gs://${google_storage_bucket.backup.name}"
}

output "connection" {
  description = "`connection` of the registration in sites.toml."
  value       = "${var.location}.${google_bigquery_connection.lake.connection_id}"
}

output "service_accounts" {
  description = "Address of each service account."
  value       = { for name, account in google_service_account.site : name => account.email }
}
