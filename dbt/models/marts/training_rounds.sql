with rounds as (

    select * from {{ ref('stg_rounds') }}

),

trained_waves as (

    select
        round,
        count(*) as num_waves
    from {{ ref('stg_round_waves') }}
    group by round

),

deltas as (

    select
        round,
        sum(case when status = 'accepted' then num_clips end) as num_clips,
        sum(case when status = 'accepted' then num_steps end) as num_steps,
        {{ total('gpu_s') }} as gpu_s
    from {{ ref('stg_round_deltas') }}
    group by round

),

regenerated as (

    select
        clips.checkpoint_round as round,
        count(distinct clips.wave) as num_waves,
        count(*) as num_clips,
        sum(case when outcomes.outcome = 'accepted' then 1 else 0 end) as num_accepted
    from {{ ref('checkpoint_clips') }} as clips
    left join {{ ref('clip_outcomes') }} as outcomes on clips.recipe_id = outcomes.recipe_id
    group by clips.checkpoint_round

),

final as (

    select
        -- ids
        rounds.round,
        rounds.base_round,
        rounds.adapter_sha256,

        -- strings
        rounds.model,
        rounds.strategy,
        rounds.codec,
        rounds.outcome,

        -- numerics
        rounds.num_sites,
        rounds.num_deltas,
        coalesce(trained_waves.num_waves, 0) as num_waves,
        coalesce(deltas.num_clips, 0) as num_clips,
        coalesce(deltas.num_steps, 0) as num_steps,
        rounds.size_bytes,
        rounds.took_s,
        deltas.gpu_s,
        rounds.loss_before,
        rounds.loss_after,
        {{ ratio('(rounds.loss_after - rounds.loss_before)', 'rounds.loss_before') }} as loss_change,
        rounds.lineage_depth,
        coalesce(regenerated.num_waves, 0) as num_regenerated_waves,
        coalesce(regenerated.num_clips, 0) as num_regenerated_clips,
        coalesce(regenerated.num_accepted, 0) as num_regenerated_accepted,

        -- timestamps
        rounds.opened_at,
        rounds.ended_at
    from rounds
    left join trained_waves on rounds.round = trained_waves.round
    left join deltas on rounds.round = deltas.round
    left join regenerated on rounds.round = regenerated.round

)

select * from final
