variable "bucket" {
  description = "Name of the site's bucket; its backup is called the same with -backup."
  type        = string
}

variable "region" {
  description = "Region of bucket and database: where the cities of this site are at home."
  type        = string
}

variable "account" {
  description = "Account number."
  type        = string
}

variable "database" {
  description = "Glue database that lists the Iceberg tables; `dataset` of the registration in sites.toml."
  type        = string
  default     = "worldloop"
}

variable "kms_key_arn" {
  description = "Key that encrypts bucket and backup."
  type        = string
}

variable "trusted_arns" {
  description = "Who may assume the roles: the identity of Dagster's daemon, of its runs, and of people."
  type        = list(string)
}

variable "cold_after_days" {
  description = "Packs of this age move to a cheaper class; reading them costs more from then on."
  type        = number
  default     = 90
}

variable "keep_deleted_days" {
  description = "How long replaced and deleted objects can be brought back."
  type        = number
  default     = 14
}

variable "tags" {
  description = "Put on everything, for the bill."
  type        = map(string)
  default     = {}
}
