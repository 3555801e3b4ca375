{% set columns = {
    'audit_id': 'varchar',
    'site': 'varchar',
    'actor': 'varchar',
    'action': 'varchar',
    'of_kind': 'varchar',
    'of_id': 'varchar',
    'reason': 'varchar',
    'done_at': 'timestamptz',
} %}

with log_rows as (

    {{ committed_rows('private', 'audits', ['audit_id'], columns) }}

),

final as (

    select
        -- ids
        audit_id,
        of_id,

        -- strings
        site,
        actor,
        action,
        of_kind,
        reason,

        -- timestamps
        done_at
    from log_rows

)

select * from final
