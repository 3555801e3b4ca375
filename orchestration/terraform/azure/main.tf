# One site on Azure: a storage account that takes no keys and shows nothing to the public, two containers
# (site and backup), and three identities that can do what their work needs and nothing else. The Fabric
# workspace and lakehouse are made by hand; a shortcut in it is made by worldloop.

terraform {
  required_version = ">= 1.8"
  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = "~> 4.0"
    }
  }
}

resource "azurerm_storage_account" "site" {
  name                            = var.account
  resource_group_name             = var.resource_group
  location                        = var.location
  account_tier                    = "Standard"
  account_replication_type        = var.replication
  account_kind                    = "StorageV2"
  is_hns_enabled                  = true # OneLake's shortcuts need it; versions of blobs do not go with it
  min_tls_version                 = "TLS1_2"
  https_traffic_only_enabled      = true
  allow_nested_items_to_be_public = false
  shared_access_key_enabled       = false
  default_to_oauth_authentication = true
  tags                            = var.tags

  blob_properties {
    delete_retention_policy {
      days = var.keep_deleted_days
    }
    container_delete_retention_policy {
      days = var.keep_deleted_days
    }
  }
}

resource "azurerm_storage_container" "site" {
  name                  = var.container
  storage_account_id    = azurerm_storage_account.site.id
  container_access_type = "private"
}

resource "azurerm_storage_container" "backup" {
  name                  = "${var.container}-backup"
  storage_account_id    = azurerm_storage_account.site.id
  container_access_type = "private"
}

resource "azurerm_storage_management_policy" "site" {
  storage_account_id = azurerm_storage_account.site.id

  # Footage is read while its release is young. Logs and tables are small and read every day.
  rule {
    name    = "cold-footage"
    enabled = true
    filters {
      prefix_match = ["${var.container}/packs/"]
      blob_types   = ["blockBlob"]
    }
    actions {
      base_blob {
        tier_to_cold_after_days_since_modification_greater_than = var.cold_after_days
      }
    }
  }
}

# --- identities: what each may do

resource "azurerm_user_assigned_identity" "site" {
  for_each            = toset(["reader", "writer", "janitor"])
  name                = "${var.container}-${each.key}"
  resource_group_name = var.resource_group
  location            = var.location
  tags                = var.tags
}

resource "azurerm_role_definition" "append" {
  name        = "${var.account}-${var.container}-append"
  scope       = azurerm_storage_account.site.id
  description = "Read, list and write blobs, without deleting any."
  permissions {
    actions = ["Microsoft.Storage/storageAccounts/blobServices/containers/read"]
    data_actions = [
      "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read",
      "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write",
      "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action",
    ]
  }
}

resource "azurerm_role_assignment" "read" {
  scope                = azurerm_storage_container.site.id
  role_definition_name = "Storage Blob Data Reader"
  principal_id         = azurerm_user_assigned_identity.site["reader"].principal_id
}

resource "azurerm_role_assignment" "append" {
  for_each           = { site = azurerm_storage_container.site.id, backup = azurerm_storage_container.backup.id }
  scope              = each.value
  role_definition_id = azurerm_role_definition.append.role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.site["writer"].principal_id
}

# What can be made again from the logs may be deleted; logs, packs, plans and releases may not.
resource "azurerm_role_assignment" "replace" {
  scope                = azurerm_storage_container.site.id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = azurerm_user_assigned_identity.site["writer"].principal_id
  condition_version    = "2.0"
  condition            = <<-EOT
    (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete'})
     OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike '${local.made_again[0]}/*'
     OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike '${local.made_again[1]}/*'
     OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike '${local.made_again[2]}/*'
     OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike '${local.made_again[3]}/*'
     OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike '${local.made_again[4]}/*')
  EOT
}

# Before anything is backed up, the probe is written and deleted again.
resource "azurerm_role_assignment" "probe_backup" {
  scope                = azurerm_storage_container.backup.id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = azurerm_user_assigned_identity.site["writer"].principal_id
  condition_version    = "2.0"
  condition            = <<-EOT
    (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete'})
     OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'probe/*')
  EOT
}

# Retention and the right to delete: a person uses it, no daemon does.
resource "azurerm_role_assignment" "delete" {
  for_each             = { site = azurerm_storage_container.site.id, backup = azurerm_storage_container.backup.id }
  scope                = each.value
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = azurerm_user_assigned_identity.site["janitor"].principal_id
}

resource "azurerm_federated_identity_credential" "run_as" {
  for_each            = { for pair in setproduct(["reader", "writer"], var.trusted_subjects) : join(" ", pair) => pair }
  name                = md5(each.key)
  resource_group_name = var.resource_group
  parent_id           = azurerm_user_assigned_identity.site[each.value[0]].id
  issuer              = var.issuer
  subject             = each.value[1]
  audience            = ["api://AzureADTokenExchange"]
}

locals {
  made_again = ["lance", "iceberg", "projections", "leases", "probe"]
}
