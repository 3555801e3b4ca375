with outcomes as (

    select * from {{ ref('clip_outcomes') }}

),

final as (

    select
        {{ joined(['city', "'/'", 'institution']) }} as place,
        city,
        institution,
        count(distinct wave) as num_waves,
        {{ count_outcomes() }},
        {{ total('duration_s') }} as duration_s,
        coalesce({{ total("case when outcome = 'accepted' then duration_s end") }}, 0) as accepted_duration_s,
        cast(sum(size_bytes) as {{ type_name('bigint') }}) as size_bytes
    from outcomes
    group by city, institution

)

select * from final
