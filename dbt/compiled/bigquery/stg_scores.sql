-- Made by `make marts-sql` from dbt/models/staging/stg_scores.sql; change that.
create or replace view worldloop_marts.stg_scores as
with log_rows as (

    select
        recipe_id,
        wave,
        reason,
        accepted,
        motion_mean_px,
        sharpness,
        exposure_mean,
        num_cuts,
        log_site
    from (
        select
            cast(recipe_id as string) as recipe_id,
            cast(wave as string) as wave,
            cast(reason as string) as reason,
            cast(accepted as bool) as accepted,
            cast(motion_mean_px as float64) as motion_mean_px,
            cast(sharpness as float64) as sharpness,
            cast(exposure_mean as float64) as exposure_mean,
            cast(num_cuts as int64) as num_cuts,
            origin as log_site,
            row_number() over (partition by recipe_id order by origin) as occurrence
        from worldloop.scores
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        recipe_id,
        wave,

        -- strings
        log_site as site,
        reason,

        -- numerics
        motion_mean_px,
        sharpness,
        exposure_mean,
        num_cuts,

        -- booleans
        accepted as is_accepted
    from log_rows

)

select * from final
