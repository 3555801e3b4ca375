with outcomes as (

    select * from {{ ref('clip_outcomes') }}

),

final as (

    select
        city || '/' || institution as place,
        city,
        institution,
        count(distinct wave) as num_waves,
        {{ count_outcomes() }},
        sum(duration_s) as duration_s,
        coalesce(sum(duration_s) filter (where outcome = 'accepted'), 0) as accepted_duration_s,
        cast(sum(size_bytes) as bigint) as size_bytes
    from outcomes
    group by city, institution

)

select * from final
