{% set columns = {
    'city': 'varchar',
    'name': 'varchar',
    'country': 'varchar',
    'country_name': 'varchar',
    'continent': 'varchar',
    'region': 'varchar',
    'koeppen': 'varchar',
    'institution': 'varchar',
} %}

with places as (

    {{ atlas_places(columns) }}

),

final as (

    select
        -- ids
        {{ joined(['city', "'/'", 'institution']) }} as place,
        city,
        institution,

        -- strings
        name as city_name,
        country,
        country_name,
        continent,
        region,
        koeppen
    from places

)

select * from final
