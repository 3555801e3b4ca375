with places as (

    select * from {{ ref('stg_places') }}

),

footage as (

    select * from {{ ref('coverage_by_place') }}

),

final as (

    select
        places.place,
        places.city,
        places.institution,
        places.city_name,
        places.country,
        places.country_name,
        places.continent,
        places.region,
        places.koeppen,
        coalesce(footage.num_waves, 0) as num_waves,
        coalesce(footage.num_clips, 0) as num_clips,
        coalesce(footage.num_accepted, 0) as num_accepted,
        coalesce(footage.accepted_duration_s, 0) as accepted_duration_s,
        {{ as_boolean('coalesce(footage.num_accepted, 0) > 0') }} as is_covered
    from places
    left join footage on places.place = footage.place

)

select * from final
