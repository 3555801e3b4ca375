# One site on GCP: a private bucket, its backup, a BigQuery data set with the connection that reads the
# bucket, and three service accounts that can do what their work needs and nothing else.

terraform {
  required_version = ">= 1.8"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 7.0"
    }
  }
}

resource "google_storage_bucket" "site" {
  name                        = var.bucket
  project                     = var.project
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = var.labels

  encryption {
    default_kms_key_name = var.kms_key
  }
  soft_delete_policy {
    retention_duration_seconds = var.keep_deleted_days * 86400
  }

  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }
  # Footage is read while its release is young. Logs and tables are small and read every day.
  lifecycle_rule {
    condition {
      age            = var.cold_after_days
      matches_prefix = ["packs/"]
    }
    action {
      type          = "SetStorageClass"
      storage_class = "COLDLINE"
    }
  }
}

resource "google_storage_bucket" "backup" {
  name                        = "${var.bucket}-backup"
  project                     = var.project
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = var.labels

  encryption {
    default_kms_key_name = var.kms_key
  }
  versioning {
    enabled = true
  }
  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }
}

resource "google_bigquery_dataset" "site" {
  project    = var.project
  dataset_id = var.dataset
  location   = var.location
  labels     = var.labels
}

resource "google_bigquery_connection" "lake" {
  project       = var.project
  location      = var.location
  connection_id = "${var.dataset}-lake"
  cloud_resource {}
}

# --- identities: what each may do

resource "google_service_account" "site" {
  for_each     = toset(["reader", "writer", "janitor"])
  project      = var.project
  account_id   = "${var.dataset}-${each.key}"
  display_name = "worldloop ${each.key}"
}

resource "google_storage_bucket_iam_member" "read" {
  for_each = google_service_account.site
  bucket   = google_storage_bucket.site.name
  role     = "roles/storage.objectViewer"
  member   = "serviceAccount:${each.value.email}"
}

resource "google_storage_bucket_iam_member" "bigquery_reads" {
  bucket = google_storage_bucket.site.name
  role   = "roles/storage.objectViewer"
  member = "serviceAccount:${google_bigquery_connection.lake.cloud_resource[0].service_account_id}"
}

resource "google_storage_bucket_iam_member" "create" {
  for_each = toset(["writer", "janitor"])
  bucket   = google_storage_bucket.site.name
  role     = "roles/storage.objectCreator"
  member   = "serviceAccount:${google_service_account.site[each.key].email}"
}

# The daemon asks whether a bucket is open to the public; that takes its policy too.
resource "google_project_iam_custom_role" "look" {
  project     = var.project
  role_id     = "${replace(var.dataset, "-", "_")}_look"
  title       = "worldloop: look at a bucket"
  permissions = ["storage.buckets.get", "storage.buckets.getIamPolicy"]
}

resource "google_storage_bucket_iam_member" "look" {
  for_each = { for pair in setproduct([var.bucket, "${var.bucket}-backup"], ["reader", "writer", "janitor"]) : join(" ", pair) => pair }
  bucket   = each.value[0]
  role     = google_project_iam_custom_role.look.id
  member   = "serviceAccount:${google_service_account.site[each.value[1]].email}"
  depends_on = [google_storage_bucket.site, google_storage_bucket.backup]
}

# Tables and projections are replaced by newer ones; logs, packs, plans, releases and replicas never are.
resource "google_storage_bucket_iam_member" "replace" {
  bucket = google_storage_bucket.site.name
  role   = "roles/storage.objectUser"
  member = "serviceAccount:${google_service_account.site["writer"].email}"
  condition {
    title      = "all-but-the-truth"
    expression = join(" && ", [for p in local.kept : "!resource.name.startsWith('projects/_/buckets/${var.bucket}/objects/${p}/')"])
  }
}

# Retention and the right to delete: a person impersonates it, no daemon does.
resource "google_storage_bucket_iam_member" "delete" {
  for_each = { site = google_storage_bucket.site.name, backup = google_storage_bucket.backup.name }
  bucket   = each.value
  role   = "roles/storage.objectUser"
  member = "serviceAccount:${google_service_account.site["janitor"].email}"
}

resource "google_storage_bucket_iam_member" "back_up" {
  for_each = toset(["roles/storage.objectCreator", "roles/storage.objectViewer"])
  bucket   = google_storage_bucket.backup.name
  role     = each.key
  member   = "serviceAccount:${google_service_account.site["writer"].email}"
}

# Before anything is backed up, the probe is written and deleted again.
resource "google_storage_bucket_iam_member" "probe_backup" {
  bucket = google_storage_bucket.backup.name
  role   = "roles/storage.objectUser"
  member = "serviceAccount:${google_service_account.site["writer"].email}"
  condition {
    title      = "only-the-probe"
    expression = "resource.name.startsWith('projects/_/buckets/${var.bucket}-backup/objects/probe/')"
  }
}

resource "google_bigquery_dataset_iam_member" "tables" {
  for_each   = { reader = "roles/bigquery.dataViewer", writer = "roles/bigquery.dataEditor" }
  project    = var.project
  dataset_id = google_bigquery_dataset.site.dataset_id
  role       = each.value
  member     = "serviceAccount:${google_service_account.site[each.key].email}"
}

resource "google_project_iam_member" "queries" {
  for_each = toset(["reader", "writer"])
  project  = var.project
  role     = "roles/bigquery.jobUser"
  member   = "serviceAccount:${google_service_account.site[each.key].email}"
}

resource "google_bigquery_connection_iam_member" "use" {
  project       = var.project
  location      = var.location
  connection_id = google_bigquery_connection.lake.connection_id
  role          = "roles/bigquery.connectionUser"
  member        = "serviceAccount:${google_service_account.site["writer"].email}"
}

resource "google_service_account_iam_member" "run_as" {
  for_each           = { for pair in setproduct(["reader", "writer"], var.trusted_members) : join(" ", pair) => pair }
  service_account_id = google_service_account.site[each.value[0]].name
  role               = "roles/iam.workloadIdentityUser"
  member             = each.value[1]
}

locals {
  kept = ["logs", "packs", "plans", "releases", "replicas"]
}
