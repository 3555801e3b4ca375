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
        count(distinct {{ joined(['city', "'/'", 'institution']) }}) as num_places,
        {{ count_outcomes() }},
        {{ total('duration_s') }} as duration_s,
        coalesce({{ total("case when outcome = 'accepted' then duration_s end") }}, 0) as accepted_duration_s,
        cast(sum(size_bytes) as {{ type_name('bigint') }}) as size_bytes
    from outcomes
    group by wave

),

final as (

    select
        counted.*,
        {{ as_boolean('releases.wave is not null') }} as is_released,
        releases.root_hash,
        releases.num_clips as num_released
    from counted
    left join releases on counted.wave = releases.wave

)

select * from final
