-- Made by `make marts-sql` from dbt/models/marts/outcome_rates.sql; change that.
create or replace view worldloop_marts.outcome_rates as
with outcomes as (

    select * from worldloop_marts.clip_outcomes
    where generator is not null -- of a clip that was never made nobody knows what would have made it

),

counted as (

    select
        generator,
        tier,
        city,
        institution,
        count(*) as num_clips,
    count(case when outcome = 'accepted' then 1 end) as num_accepted,
    count(case when outcome = 'duplicate' then 1 end) as num_duplicate,
    count(case when outcome = 'rejected' then 1 end) as num_rejected,
    count(case when outcome = 'failed' then 1 end) as num_failed,
    count(case when outcome = 'blocked' then 1 end) as num_blocked,
    count(case when outcome = 'pending' then 1 end) as num_pending

    from outcomes
    group by generator, tier, city, institution

),

measured as (

    select
        generator,
        tier,
        city,
        institution,
        num_clips,
        num_clips - num_pending as num_judged,
        num_accepted,
        num_rejected,
        num_duplicate
    from counted

),

final as (

    select
        generator,
        tier,
        city,
        institution,
        num_clips,
        num_judged,
        num_accepted,
        num_rejected,
        num_duplicate,
        cast(num_accepted as double) / nullif(num_judged, 0) as accepted_share,
        cast(num_rejected as double) / nullif(num_judged, 0) as reject_share,
        cast(num_duplicate as double) / nullif(num_judged, 0) as duplicate_share
    from measured

)

select * from final
