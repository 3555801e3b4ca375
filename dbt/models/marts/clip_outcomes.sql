with lineage as (

    select * from {{ ref('stg_lineage') }}

),

scores as (

    select * from {{ ref('stg_scores') }}

),

duplicates as (

    select * from {{ ref('stg_duplicates') }}

),

superseded as (

    select
        recipe_id,
        match_kind,
        row_number() over (partition by recipe_id order by superseded_by) as match_rank
    from {{ ref('stg_superseded') }}

),

failures as (

    select * from {{ ref('stg_failures') }}

),

blocked as (

    select * from {{ ref('stg_blocked') }}

),

made as (

    select
        lineage.recipe_id,
        lineage.sketch_recipe_id,
        lineage.wave,
        lineage.clip_index,
        lineage.city,
        lineage.institution,
        lineage.generator,
        lineage.tier,
        lineage.duration_s,
        lineage.size_bytes,
        lineage.site,
        {{ as_boolean('superseded.recipe_id is not null') }} as is_superseded,
        coalesce(superseded.match_kind, duplicates.match_kind) as match_kind,
        case
            when scores.recipe_id is null then 'pending'
            when scores.is_accepted = {{ boolean(false) }} then 'rejected' -- also if it was not compared
            when duplicates.recipe_id is null then 'pending'
            when superseded.recipe_id is not null or duplicates.status = 'duplicate' then 'duplicate'
            else 'accepted'
        end as outcome,
        scores.reason as score_reason
    from lineage
    left join scores on lineage.recipe_id = scores.recipe_id
    left join duplicates on lineage.recipe_id = duplicates.recipe_id
    -- a clip may repeat several late arrivals: one match tells enough
    left join superseded
        on lineage.recipe_id = superseded.recipe_id and superseded.match_rank = 1

),

explained as (

    select
        recipe_id,
        sketch_recipe_id,
        wave,
        clip_index,
        city,
        institution,
        generator,
        tier,
        outcome,
        case outcome when 'rejected' then 'signals' when 'duplicate' then 'dedup' end as stage,
        case outcome
            when 'rejected' then coalesce(score_reason, 'no reason given')
            when 'duplicate' then {{ joined(["'duplicate: '", 'match_kind']) }}
        end as reason,
        match_kind,
        is_superseded,
        duration_s,
        size_bytes,
        site
    from made

),

failed as (

    -- a clip that was made later has not failed
    select
        failures.recipe_id,
        cast(null as {{ type_name('varchar') }}) as sketch_recipe_id,
        failures.wave,
        failures.clip_index,
        failures.city,
        failures.institution,
        cast(null as {{ type_name('varchar') }}) as generator,
        cast(null as {{ type_name('varchar') }}) as tier,
        'failed' as outcome,
        failures.stage,
        failures.reason,
        cast(null as {{ type_name('varchar') }}) as match_kind,
        {{ boolean(false) }} as is_superseded,
        cast(0 as {{ type_name('double') }}) as duration_s,
        cast(0 as {{ type_name('bigint') }}) as size_bytes,
        failures.site
    from failures
    left join lineage on failures.recipe_id = lineage.recipe_id
    where lineage.recipe_id is null

),

stopped as (

    -- one that was made later, with another guard say, was not stopped
    select
        blocked.recipe_id,
        cast(null as {{ type_name('varchar') }}) as sketch_recipe_id,
        blocked.wave,
        blocked.clip_index,
        blocked.city,
        blocked.institution,
        cast(null as {{ type_name('varchar') }}) as generator,
        cast(null as {{ type_name('varchar') }}) as tier,
        'blocked' as outcome,
        'guardrail' as stage,
        {{ joined(["'blocked by '", 'blocked.guard', "': '", 'blocked.category']) }} as reason,
        cast(null as {{ type_name('varchar') }}) as match_kind,
        {{ boolean(false) }} as is_superseded,
        cast(0 as {{ type_name('double') }}) as duration_s,
        cast(0 as {{ type_name('bigint') }}) as size_bytes,
        blocked.site
    from blocked
    left join lineage on blocked.recipe_id = lineage.recipe_id
    left join failures on blocked.recipe_id = failures.recipe_id
    where lineage.recipe_id is null and failures.recipe_id is null

),

final as (

    select * from explained
    union all
    select * from failed
    union all
    select * from stopped

)

select * from final
