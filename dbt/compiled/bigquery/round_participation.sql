-- Made by `make marts-sql` from dbt/models/marts/round_participation.sql; change that.
create or replace view worldloop_marts.round_participation as
with deltas as (

    select * from worldloop_marts.stg_round_deltas

),

rounds as (

    select * from worldloop_marts.stg_rounds

),

totals as (

    select
        round,
        sum(case when status = 'accepted' then num_clips end) as num_clips
    from deltas
    group by round

),

final as (

    select
        -- ids
        deltas.round,
        deltas.site,
        deltas.content_sha256,

        -- strings
        deltas.status,
        rounds.outcome,
        rounds.model,

        -- numerics
        deltas.num_clips,
        case
            when deltas.status = 'accepted'
            then deltas.num_clips / nullif(totals.num_clips, 0)
        end as clip_share,
        deltas.num_steps,
        deltas.size_bytes,
        deltas.staleness,
        deltas.took_s,
        deltas.gpu_s,
        deltas.loss_before,
        deltas.loss_after,
        deltas.norm,

        -- timestamps
        rounds.opened_at
    from deltas
    left join rounds on deltas.round = rounds.round
    left join totals on deltas.round = totals.round

)

select * from final
