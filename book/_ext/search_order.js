// Pages stand before entries of the API, whose names match a term more often; see html_search_scorer in _config.yml.
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
  score: ([docname, title, anchor, descr, score]) => score - (docname.startsWith("book/api_") ? 1000 : 0),
};
