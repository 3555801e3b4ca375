with deltas as (

    select * from {{ ref('stg_round_deltas') }}

),

rounds as (

    select * from {{ ref('stg_rounds') }}

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
            then {{ ratio('deltas.num_clips', 'totals.num_clips') }}
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
