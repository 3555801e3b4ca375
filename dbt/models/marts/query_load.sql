{% set filters = [
    'recipe_id', 'wave', 'index', 'city', 'institution', 'weather', 'daypart', 'season', 'generator',
    'tier', 'status', 'duration_s', 'caption', 'sketch_recipe_id',
] %}

with queries as (

    select
        *,
        {{ utc_day('asked_at') }} as asked_on,
        {{ words('condition') }} as condition_words
    from {{ ref('stg_queries') }}

),

ranked as (

    select
        *,
        row_number() over (partition by site, model_id, asked_on order by took_ms) as took_rank,
        count(*) over (partition by site, model_id, asked_on) as num_ranked
    from queries

),

final as (

    select
        -- strings
        site,
        model_id,

        -- numerics
        count(*) as num_queries,
        min(case when 100 * took_rank >= 50 * num_ranked then took_ms end) as took_p50_ms,
        min(case when 100 * took_rank >= 95 * num_ranked then took_ms end) as took_p95_ms,
        count(case when num_found < num_wanted then 1 end) as num_short,
        count(case when condition <> '' then 1 end) as num_filtered,
        {% for column in filters -%}
        count(case when condition_words like '% {{ column }} %' then 1 end) as num_by_{{ column }},
        {% endfor %}
        -- timestamps
        asked_on
    from ranked
    group by site, model_id, asked_on

)

select * from final
