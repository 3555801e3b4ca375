variable "project" {
  description = "Project; `project` of the registration in sites.toml."
  type        = string
}

variable "bucket" {
  description = "Name of the site's bucket; its backup is called the same with -backup."
  type        = string
}

variable "location" {
  description = "Region of bucket, data set and connection: where the cities of this site are at home."
  type        = string
}

variable "dataset" {
  description = "BigQuery data set; `dataset` of the registration in sites.toml."
  type        = string
  default     = "worldloop"
}

variable "kms_key" {
  description = "Key that encrypts bucket and backup, as projects/P/locations/L/keyRings/R/cryptoKeys/K."
  type        = string
}

variable "trusted_members" {
  description = "Workload identities of Dagster's daemon and its runs, as IAM members."
  type        = list(string)
}

variable "cold_after_days" {
  description = "Packs of this age move to a cheaper class; reading them costs more from then on."
  type        = number
  default     = 90
}

variable "keep_deleted_days" {
  description = "How long replaced and deleted objects can be brought back, 7 to 90."
  type        = number
  default     = 14
}

variable "labels" {
  description = "Put on everything, for the bill."
  type        = map(string)
  default     = {}
}
