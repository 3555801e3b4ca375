-- Made by `make marts-sql` from dbt/models/marts/wave_summary.sql; change that.
create or replace view worldloop_marts.wave_summary as
with outcomes as (

    select * from worldloop_marts.clip_outcomes

),

releases as (

    select * from worldloop_marts.stg_releases

),

counted as (

    select
        wave,
        count(distinct city) as num_cities,
        count(distinct city || '/' || institution) as num_places,
        count(*) as num_clips,
    count(case when outcome = 'accepted' then 1 end) as num_accepted,
    count(case when outcome = 'duplicate' then 1 end) as num_duplicate,
    count(case when outcome = 'rejected' then 1 end) as num_rejected,
    count(case when outcome = 'failed' then 1 end) as num_failed,
    count(case when outcome = 'blocked' then 1 end) as num_blocked,
    count(case when outcome = 'pending' then 1 end) as num_pending
    ,
        sum(duration_s) as duration_s,
        coalesce(sum(case when outcome = 'accepted' then duration_s end), 0) as accepted_duration_s,
        cast(sum(size_bytes) as int64) as size_bytes
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
    left join releases on counted.wave = releases.wave

)

select * from final
