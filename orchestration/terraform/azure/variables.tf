variable "resource_group" {
  description = "Resource group of everything."
  type        = string
}

variable "location" {
  description = "Region: where the cities of this site are at home."
  type        = string
}

variable "account" {
  description = "Name of the storage account."
  type        = string
}

variable "container" {
  description = "Name of the site's container; its backup is called the same with -backup."
  type        = string
  default     = "worldloop"
}

variable "replication" {
  description = "LRS, ZRS or GRS."
  type        = string
  default     = "ZRS"
}

variable "issuer" {
  description = "OpenID issuer that vouches for Dagster's daemon and its runs, e.g. of the cluster."
  type        = string
}

variable "trusted_subjects" {
  description = "Subjects of that issuer which may act as reader and writer."
  type        = list(string)
}

variable "cold_after_days" {
  description = "Packs of this age move to a cheaper tier; reading them costs more from then on."
  type        = number
  default     = 90
}

variable "keep_deleted_days" {
  description = "How long replaced and deleted blobs can be brought back."
  type        = number
  default     = 14
}

variable "tags" {
  description = "Put on everything, for the bill."
  type        = map(string)
  default     = {}
}
