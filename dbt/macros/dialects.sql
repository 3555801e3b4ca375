{#
    What SQL engines say differently. The dialect is the adapter's, or that of the variable `dialect`,
    so that the SQL of every engine can be made beside DuckDB (`python -m orchestration.marts_sql`).
    Models use what all four engines share (`case` in aggregates, joins with `on`, ranks in place of
    quantiles) and these macros for the rest.
#}
{% macro dialect() -%}
    {{- return(var('dialect', target.type)) -}}
{%- endmacro %}


{# A type by DuckDB's name. Athena cannot keep a zone in a view, so its moments are UTC without one. #}
{% macro type_name(type) -%}
    {%- set names = {
        'bigquery': {
            'varchar': 'string', 'integer': 'int64', 'bigint': 'int64', 'double': 'float64',
            'boolean': 'bool', 'timestamptz': 'timestamp',
        },
        'athena': {'timestamptz': 'timestamp(6)'},
        'fabric': {
            'varchar': 'varchar(8000)', 'integer': 'int', 'double': 'float', 'boolean': 'bit',
            'timestamptz': 'datetime2(6)',
        },
    } -%}
    {{- return(names.get(dialect(), {}).get(type, type)) -}}
{%- endmacro %}


{# A column whose name T-SQL keeps for itself. #}
{% macro identifier(name) -%}
    {%- set reserved = ['checkpoint', 'index'] if dialect() == 'fabric' else [] -%}
    {{- return('[' ~ name ~ ']' if name in reserved else name) -}}
{%- endmacro %}


{# A condition as a column; T-SQL has no boolean expressions. #}
{% macro as_boolean(condition) -%}
    {%- if dialect() == 'fabric' -%}
    cast(case when {{ condition }} then 1 else 0 end as bit)
    {%- else -%}
    {{ condition }}
    {%- endif -%}
{%- endmacro %}


{% macro boolean(value) -%}
    {%- if dialect() == 'fabric' -%}
    cast({{ 1 if value else 0 }} as bit)
    {%- else -%}
    {{ 'true' if value else 'false' }}
    {%- endif -%}
{%- endmacro %}


{# Texts joined; null if one of them is. #}
{% macro joined(parts) -%}
    {{- return(parts | join(' + ' if dialect() == 'fabric' else ' || ')) -}}
{%- endmacro %}


{# A share as a floating number, null where there is nothing to divide by. #}
{% macro ratio(part, whole) -%}
    {%- if dialect() in ('athena', 'fabric') -%}
    cast({{ part }} as {{ type_name('double') }}) / nullif({{ whole }}, 0)
    {%- else -%}
    {{ part }} / nullif({{ whole }}, 0)
    {%- endif -%}
{%- endmacro %}


{#
    Sum and mean of floating numbers. DuckDB adds them in the order of their size, so that equal rows
    give equal bits in whatever order they lie; the other engines offer no order here.
#}
{% macro total(number) -%}
    sum({{ number }}{{ ' order by ' ~ number if dialect() == 'duckdb' }})
{%- endmacro %}


{% macro mean(number) -%}
    avg({{ number }}{{ ' order by ' ~ number if dialect() == 'duckdb' }})
{%- endmacro %}


{# The day of a moment in UTC, whatever zone the session has. #}
{% macro utc_day(moment) -%}
    {%- if dialect() == 'duckdb' -%}
    cast(make_timestamp(epoch_us({{ moment }})) as date)
    {%- elif dialect() == 'bigquery' -%}
    date({{ moment }})
    {%- else -%}
    cast({{ moment }} as date)
    {%- endif -%}
{%- endmacro %}


{# An SQL condition as words with a space on either side, to look for the columns that it names. #}
{% macro words(condition) -%}
    {%- set text = namespace(sql='lower(' ~ condition ~ ')') -%}
    {%- for sign in ['(', ')', '=', '<', '>', '!', ',', '`'] -%}
        {%- set text.sql = "replace(" ~ text.sql ~ ", '" ~ sign ~ "', ' ')" -%}
    {%- endfor -%}
    {{- return(joined(["' '", text.sql, "' '"])) -}}
{%- endmacro %}
