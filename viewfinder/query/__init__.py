"""The meaning of a query: parts, weights, filters, ranking, grouping, paging, relevance."""
