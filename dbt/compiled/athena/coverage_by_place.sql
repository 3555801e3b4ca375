-- Made by `make marts-sql` from dbt/models/marts/coverage_by_place.sql; change that.
create or replace view worldloop_marts.coverage_by_place as
with outcomes as (

    select * from worldloop_marts.clip_outcomes

),

final as (

    select
        city || '/' || institution as place,
        city,
        institution,
        count(distinct wave) as num_waves,
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
        cast(sum(size_bytes) as bigint) as size_bytes
    from outcomes
    group by city, institution

)

select * from final
