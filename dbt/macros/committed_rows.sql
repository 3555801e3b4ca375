{#
    The rows of one kind of log that count, of all sites: the first row of each id, without those
    that a retraction of the same site takes back. `log_site` says whose log a row is in; of an id
    that stands in the logs of several sites, the first site by name counts.

    DuckDB reads the logs themselves; with the variable `source: tables`, and in the clouds, the same
    rows come from the Iceberg tables of a site. Something that has no batch yet has no rows.

    log:      private or shared
    kind:     name of the kind, a source table of models/staging/sources.yml
    key:      columns that name a row; the log's id is made of them
    columns:  column to type; a payload's own `kind` is `payload_kind`, as in the log
#}
{% macro committed_rows(log, kind, key, columns) -%}
    {%- set relation = source('logs', kind) -%} {#- the dependency; the macros know where rows are -#}
    {%- if row_source() == 'tables' -%}
        {{ table_rows(kind, key, columns) }}
    {%- else -%}
        {{ logged_rows(log, kind, columns) }}
    {%- endif -%}
{%- endmacro %}


{% macro row_source() -%}
    {{- return(var('source', 'logs' if dialect() == 'duckdb' else 'tables')) -}}
{%- endmacro %}


{# Rows of the logs in folders: in batches that a claim names, a log may be older than a column. #}
{% macro logged_rows(log, kind, columns) -%}
    {%- set written = [] -%}
    {%- for site in log_folders() if has_batches(site.folder ~ '/' ~ log ~ '/' ~ kind) -%}
        {%- do written.append(site) -%}
    {%- endfor -%}
    {%- if not written -%}
        {{ no_rows(columns) }}
    {%- elif written | length == 1 -%}
        {{ site_rows(written[0], log, kind, columns) }}
    {%- else -%}
        select * exclude (id)
        from (
            {% for site in written -%}
            ({{ site_rows(site, log, kind, columns, with_id=true) }})
            {{ 'union all' if not loop.last }}
            {% endfor -%}
        ) as all_sites
        qualify row_number() over (partition by id order by log_site) = 1
    {%- endif -%}
{%- endmacro %}


{% macro site_rows(site, log, kind, columns, with_id=false) -%}
    {%- set folder = site.folder ~ '/' ~ log -%}
    select
        {{ 'id,' if with_id }}
        {{ typed(columns) }},
        {{ quoted(site.site) }} as log_site
    from ({{ with_every_column(batches(folder, kind), columns) }})
    {% if has_batches(folder ~ '/retractions') -%}
    where id not in (
        select of_id from ({{ batches(folder, 'retractions') }}) where of_kind = '{{ kind }}'
    )
    {% endif -%}
    qualify row_number() over (partition by id order by batch) = 1
{%- endmacro %}


{#
    Rows of a site's Iceberg tables: its own logs and the shared logs of all sites, without what was
    taken back. Every site may say something of one id: again the first by name counts.
#}
{% macro table_rows(kind, key, columns) -%}
    {%- if dialect() == 'duckdb' and not has_files(var('tables') ~ '/' ~ kind ~ '.parquet') -%}
    {{ no_rows(columns) }}
    {%- else -%}
    {#- what is compared between sites has an origin of its own; there the writer is `site` -#}
    {%- set writer = 'site' if 'origin' in columns else 'origin' -%}
    select
        {% for column in columns -%}
        {{ identifier(column) }},
        {% endfor -%}
        log_site
    from (
        select
            {% for column, type in columns.items() -%}
            cast({{ identifier(column | replace('payload_', '')) }} as {{ type_name(type) }}) as {{ identifier(column) }},
            {% endfor -%}
            {{ writer }} as log_site,
            row_number() over (partition by {{ key | join(', ') }} order by {{ writer }}) as occurrence
        from {{ table_name(kind) }}
    ) as numbered
    where occurrence = 1
    {%- endif -%}
{%- endmacro %}


{% macro table_name(kind) -%}
    {%- if dialect() == 'duckdb' -%}
    read_parquet({{ quoted(var('tables') ~ '/' ~ kind ~ '.parquet') }})
    {%- else -%}
    {{ var('tables', 'worldloop') }}.{{ kind }}
    {%- endif -%}
{%- endmacro %}


{% macro no_rows(columns) -%}
    select
        {{ typed(columns, nothing=true) }},
        cast(null as varchar) as log_site
    where false
{%- endmacro %}


{# Columns in their types; `nothing` gives nulls. #}
{% macro typed(columns, nothing=false) -%}
    {% for column, type in columns.items() -%}
    cast({{ 'null' if nothing else identifier(column) }} as {{ type_name(type) }}) as {{ identifier(column) }}{{ ',' if not loop.last }}
    {% endfor -%}
{%- endmacro %}


{# Rows with all columns, null where no batch has them yet: a log may be older than a column. #}
{% macro with_every_column(relation, columns) -%}
    select
        {{ typed(columns, nothing=true) }}
    where false
    union all by name
    {{ relation }}
{%- endmacro %}


{% macro batches(folder, kind) -%}
    select log_rows.*, parse_filename(log_rows.filename) as batch
    from read_parquet({{ quoted(folder ~ '/' ~ kind ~ '/*.parquet') }}, union_by_name = true, filename = true) as log_rows
    inner join read_text({{ quoted(folder ~ '/' ~ kind ~ '/claims/*') }}) as claims
        on parse_filename(log_rows.filename)
        = parse_filename(claims.filename) || '-' || claims.content || '.parquet'
{%- endmacro %}


{# A mirror may know of a claim and have no batch yet, a store may have a batch that nobody claimed. #}
{% macro has_batches(folder) -%}
    {{- return(has_files(folder ~ '/claims/*') and has_files(folder ~ '/*.parquet')) -}}
{%- endmacro %}


{% macro has_files(pattern) -%}
    {%- if execute -%}
        {%- set found = run_query("select count(*) from glob(" ~ quoted(pattern) ~ ")") -%}
        {{- return(found.rows[0][0] > 0) -}}
    {%- endif -%}
    {{- return(false) -}}
{%- endmacro %}


{# Whose logs are where: the variable `logs`, a list of {site, folder}, else the site `local` alone. #}
{% macro log_folders() -%}
    {%- set home = var('home', env_var('WORLDLOOP_HOME', '../.worldloop')) -%}
    {{- return(var('logs', [{'site': 'local', 'folder': home ~ '/sites/local/logs'}])) -}}
{%- endmacro %}


{% macro quoted(text) -%}
    {{- return("'" ~ text | replace("'", "''") ~ "'") -}}
{%- endmacro %}
