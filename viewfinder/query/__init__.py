"""What a query means: parts, weights, filters, ranking, grouping, paging, relevance."""
