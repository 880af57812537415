// A page that was opened as a file may not read others, so the summaries beside what a search finds need a server.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
