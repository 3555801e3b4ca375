{% set columns = {
    'site': 'varchar',
    'origin': 'varchar',
    'of_kind': 'varchar',
    'measured_at': 'timestamptz',
    'num_expected': 'bigint',
    'num_missing': 'bigint',
    'num_repaired': 'bigint',
} %}

with log_rows as (

    {{ committed_rows('shared', 'reconciliations', ['site', 'origin', 'of_kind', 'measured_at'], columns) }}

),

final as (

    select
        -- strings
        site,
        origin,
        of_kind,

        -- numerics
        num_expected,
        num_missing,
        num_repaired,

        -- timestamps
        measured_at
    from log_rows

)

select * from final
