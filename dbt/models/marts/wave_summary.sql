with outcomes as (

    select * from {{ ref('clip_outcomes') }}

),

releases as (

    select * from {{ ref('stg_releases') }}

),

counted as (

    select
        wave,
        count(distinct city) as num_cities,
        count(distinct city || '/' || institution) as num_places,
        {{ count_outcomes() }},
        sum(duration_s) as duration_s,
        coalesce(sum(duration_s) filter (where outcome = 'accepted'), 0) as accepted_duration_s,
        cast(sum(size_bytes) as bigint) as size_bytes
    from outcomes
    group by wave

),

final as (

    select
        counted.*,
        releases.wave is not null as is_released,
        releases.root_hash,
        releases.num_clips as num_released
    from counted
    left join releases using (wave)

)

select * from final
