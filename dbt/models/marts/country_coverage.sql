with places as (

    select * from {{ ref('atlas_coverage') }}

),

final as (

    select
        country,
        country_name,
        continent,
        count(distinct city) as num_cities,
        count(distinct case when is_covered = {{ boolean(true) }} then city end) as num_cities_covered,
        count(*) as num_places,
        count(case when is_covered = {{ boolean(true) }} then 1 end) as num_places_covered,
        cast(sum(num_clips) as {{ type_name('bigint') }}) as num_clips,
        cast(sum(num_accepted) as {{ type_name('bigint') }}) as num_accepted,
        {{ total('accepted_duration_s') }} as accepted_duration_s
    from places
    group by country, country_name, continent

)

select * from final
