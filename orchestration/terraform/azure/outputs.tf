output "store" {
  description = "`store` of the site in sites.toml."
  value       = "az://${azurerm_storage_container.site.name}"
}

output "backup" {
  description = "`backup` of the site in sites.toml."
  value       = "az://${azurerm_storage_container.backup.name}"
}

output "warehouse" {
  description = "`warehouse` of the site's Iceberg tables in sites.toml, as Fabric wants it."
  value       = "abfss://${azurerm_storage_container.site.name}@${azurerm_storage_account.site.primary_dfs_host}/iceberg"
}

output "identities" {
  description = "Client id of each identity."
  value       = { for name, identity in azurerm_user_assigned_identity.site : name => identity.client_id }
}
