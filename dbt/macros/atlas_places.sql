{#
    The places of the atlas that ships with this version, as `place_atlas` wrote them; no rows before
    that. DuckDB reads the file of the coordinator's store (variable `places`, else the site `local`);
    the clouds have no table of it, so models over it are made for DuckDB only.

    columns:  column to type
#}
{% macro atlas_places(columns) -%}
    {%- set relation = source('atlas', 'places') -%} {#- the dependency; the file is known here -#}
    {%- set home = var('home', env_var('WORLDLOOP_HOME', '../.worldloop')) -%}
    {%- set file = var('places', home ~ '/sites/local/atlas/places.parquet') -%}
    {%- if has_files(file) -%}
    select
        {{ typed(columns) }}
    from read_parquet({{ quoted(file) }})
    {%- else -%}
    select
        {{ typed(columns, nothing=true) }}
    where false
    {%- endif -%}
{%- endmacro %}
