{#
    The rows of one kind of a site's log that count: in batches that a claim names, the first row of
    each id, without those that a retraction takes back. A log that has no batch yet has no rows.

    log:      private or shared
    kind:     name of the kind, a source table of models/staging/sources.yml
    columns:  column to type
#}
{% macro committed_rows(log, kind, columns) -%}
    {%- set relation = source('logs', kind) -%} {#- the dependency; the rows come from files -#}
    {%- set folder = site_folder() ~ '/logs/' ~ log -%}
    {%- if not has_files(folder ~ '/' ~ kind ~ '/claims/*') -%}
        select
            {% for column, type in columns.items() -%}
            cast(null as {{ type }}) as {{ column }}{{ ',' if not loop.last }}
            {% endfor -%}
        where false
    {%- else -%}
        select
            {% for column, type in columns.items() -%}
            cast({{ column }} as {{ type }}) as {{ column }}{{ ',' if not loop.last }}
            {% endfor -%}
        from ({{ with_every_column(batches(folder, kind), columns) }})
        {% if has_files(folder ~ '/retractions/claims/*') -%}
        where id not in (
            select of_id from ({{ batches(folder, 'retractions') }}) where of_kind = '{{ kind }}'
        )
        {% endif -%}
        qualify row_number() over (partition by id order by batch) = 1
    {%- endif -%}
{%- endmacro %}


{# Rows with all columns, null where no batch has them yet: a log may be older than a column. #}
{% macro with_every_column(relation, columns) -%}
    select
        {% for column, type in columns.items() -%}
        cast(null as {{ type }}) as {{ column }}{{ ',' if not loop.last }}
        {% endfor -%}
    where false
    union all by name
    {{ relation }}
{%- endmacro %}


{% macro batches(folder, kind) -%}
    select log_rows.*, parse_filename(log_rows.filename) as batch
    from read_parquet('{{ folder }}/{{ kind }}/*.parquet', union_by_name = true, filename = true) as log_rows
    inner join read_text('{{ folder }}/{{ kind }}/claims/*') as claims
        on parse_filename(log_rows.filename)
        = parse_filename(claims.filename) || '-' || claims.content || '.parquet'
{%- endmacro %}


{% macro has_files(pattern) -%}
    {%- if execute -%}
        {%- set found = run_query("select count(*) from glob('" ~ pattern ~ "')") -%}
        {{- return(found.rows[0][0] > 0) -}}
    {%- endif -%}
    {{- return(false) -}}
{%- endmacro %}


{% macro site_folder() -%}
    {{- return(var('home', env_var('WORLDLOOP_HOME', '../.worldloop')) ~ '/sites/' ~ var('site', 'local')) -}}
{%- endmacro %}
