with outcomes as (

    select * from {{ ref('clip_outcomes') }}

),

waves as (

    select
        wave,
        count(*) as num_planned
    from outcomes
    group by wave

),

counted as (

    select
        wave,
        stage,
        reason,
        count(*) as num_clips
    from outcomes
    where outcome in ('rejected', 'duplicate', 'failed', 'blocked')
    group by wave, stage, reason

),

final as (

    select
        counted.wave,
        counted.stage,
        counted.reason,
        counted.num_clips,
        {{ ratio('counted.num_clips', 'waves.num_planned') }} as clip_share
    from counted
    inner join waves on counted.wave = waves.wave

)

select * from final
