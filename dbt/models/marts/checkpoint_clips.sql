with generations as (

    select * from {{ ref('stg_generations') }}
    where {{ identifier('checkpoint') }} like '%/snapshots/r%'

),

rounds as (

    select * from {{ ref('stg_rounds') }}

),

matched as (

    -- adapters stand in `checkpoint` as ' + <folder> x <weight>', and a folder ends with its round
    select
        generations.recipe_id,
        generations.wave,
        generations.model,
        rounds.round as checkpoint_round,
        row_number() over (
            partition by generations.recipe_id order by rounds.opened_at desc, rounds.round desc
        ) as newest_rank
    from generations
    inner join rounds
        on generations.{{ identifier('checkpoint') }}
        like {{ joined(["'%/snapshots/'", 'rounds.round', "' x %'"]) }}

),

final as (

    select
        -- ids
        recipe_id,
        wave,
        checkpoint_round,

        -- strings
        model
    from matched
    where newest_rank = 1

)

select * from final
