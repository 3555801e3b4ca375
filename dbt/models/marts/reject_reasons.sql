with outcomes as (

    select * from {{ ref('clip_outcomes') }}

),

final as (

    select
        wave,
        stage,
        reason,
        count(*) as num_clips
    from outcomes
    where outcome in ('rejected', 'duplicate', 'failed', 'blocked')
    group by wave, stage, reason

)

select * from final
