{# Clips of each outcome, as columns num_accepted, num_rejected, ... of a model over clip_outcomes. #}
{% macro count_outcomes() -%}
    count(*) as num_clips,
    {% for outcome in ['accepted', 'duplicate', 'rejected', 'failed', 'blocked', 'pending'] -%}
    count(case when outcome = '{{ outcome }}' then 1 end) as num_{{ outcome }}{{ ',' if not loop.last }}
    {% endfor -%}
{%- endmacro %}
