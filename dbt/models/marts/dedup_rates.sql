with outcomes as (

    select * from {{ ref('clip_outcomes') }}

),

counted as (

    select
        wave,
        city,
        count(*) filter (where outcome in ('accepted', 'duplicate')) as num_compared,
        count(*) filter (where outcome = 'duplicate') as num_duplicate,
        count(*) filter (where outcome = 'duplicate' and match_kind = 'content') as num_same_content,
        count(*) filter (where outcome = 'duplicate' and match_kind = 'scene') as num_same_scene,
        count(*) filter (where outcome = 'duplicate' and match_kind = 'semantic') as num_semantic,
        count(*) filter (where outcome = 'duplicate' and is_superseded) as num_superseded
    from outcomes
    group by wave, city

),

final as (

    select
        *,
        num_duplicate / nullif(num_compared, 0) as duplicate_share
    from counted

)

select * from final
