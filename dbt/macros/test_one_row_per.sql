{# A key of several columns: none of them is null, and no two rows agree in all of them. #}
{% test one_row_per(model, columns) %}
select {{ columns | join(', ') }}
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1{% for column in columns %} or {{ column }} is null{% endfor %}
{% endtest %}
