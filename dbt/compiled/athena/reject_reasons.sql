-- Made by `make marts-sql` from dbt/models/marts/reject_reasons.sql; change that.
create or replace view worldloop_marts.reject_reasons as
with outcomes as (

    select * from worldloop_marts.clip_outcomes

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
        cast(counted.num_clips as double) / nullif(waves.num_planned, 0) as clip_share
    from counted
    inner join waves on counted.wave = waves.wave

)

select * from final
