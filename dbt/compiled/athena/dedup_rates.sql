-- Made by `make marts-sql` from dbt/models/marts/dedup_rates.sql; change that.
create or replace view worldloop_marts.dedup_rates as
with outcomes as (

    select * from worldloop_marts.clip_outcomes

),

counted as (

    select
        wave,
        city,
        count(case when outcome in ('accepted', 'duplicate') then 1 end) as num_compared,
        count(case when outcome = 'duplicate' then 1 end) as num_duplicate,
        count(case when outcome = 'duplicate' and match_kind = 'content' then 1 end) as num_same_content,
        count(case when outcome = 'duplicate' and match_kind = 'scene' then 1 end) as num_same_scene,
        count(case when outcome = 'duplicate' and match_kind = 'semantic' then 1 end) as num_semantic,
        count(case when outcome = 'duplicate' and is_superseded = true then 1 end) as num_superseded
    from outcomes
    group by wave, city

),

final as (

    select
        *,
        cast(num_duplicate as double) / nullif(num_compared, 0) as duplicate_share
    from counted

)

select * from final
