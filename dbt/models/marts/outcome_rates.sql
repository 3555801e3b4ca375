with outcomes as (

    select * from {{ ref('clip_outcomes') }}
    where generator is not null -- of a clip that was never made nobody knows what would have made it

),

counted as (

    select
        generator,
        tier,
        city,
        institution,
        {{ count_outcomes() }}
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
        {{ ratio('num_accepted', 'num_judged') }} as accepted_share,
        {{ ratio('num_rejected', 'num_judged') }} as reject_share,
        {{ ratio('num_duplicate', 'num_judged') }} as duplicate_share
    from measured

)

select * from final
