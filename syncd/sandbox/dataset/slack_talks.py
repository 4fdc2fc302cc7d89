"""What is said in the emulated Slack, by the topic of a channel."""

from __future__ import annotations

# A talk is an opening and its replies; customer, numbers and people stay the same within one. A note stands alone.
TALKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "general": (
        ("Office is closed on Friday for the fire inspection :house:", "Does that hold for the lab too?",
         "Yes, the whole building", "Thanks, moved the {customer} visit to Thursday"),
        ("All hands moves to 16:00, same link <https://meet.example/allhands|the usual room>",
         "Recording for those who travel?", "Will be in the folder tonight :+1:"),
        ("Please welcome our new colleague in support! :tada:", "Welcome!!", "¡Bienvenida! Un placer tenerte aquí",
         "ようこそ 🎉", "Lunch at noon, come along"),
        ("Expense reports are due on {day}", "Portal says <https://expenses.example/login|403> for me",
         "Try again, your seat had run out &amp; I added one"),
    ),
    "sales": (
        ("{customer} asked for the revised quote by {day}: {amount}, 3 years, 40 seats", "Did legal sign off?",
         "Waiting for it, {who} has the draft", "Signed off just now", "{contact} confirmed receipt :handshake:"),
        ("Discovery call with {contact} of {customer} went well. They keep calls in a spreadsheet", "Budget?",
         "Around {amount}, decision in six weeks", "Let me bring in {who} for the security questions"),
        ("{customer} renewal: up 15% or we keep the price for a case study?", "Case study, they are a great name",
         "Agreed &gt; I draft the mail to {contact}"),
        ("Lost {customer} to “no decision” :disappointed:", "Shall we ask for a retro?", "{contact} offered {day}"),
    ),
    "support": (
        ("{customer} reports exports that stop at 10,000 rows, ticket #{ref}", "Reproduced with their file",
         "{who} is that the old paging bug?", "Looks like it. Fix goes out with {version}", "Told {contact}"),
        ("Ticket #{ref}: SSO login loops at {customer}", "Clock skew on their side? 5 min off breaks it",
         "That was it, {contact} fixed their NTP", "Closing :white_check_mark:"),
        ("Can somebody translate? «Экспорт не открывается в Excel, кодировка сломана»",
         "Export does not open in Excel, encoding broken", "It was UTF-16. Filed as #{ref}"),
        ("{contact} wants to talk to a human about invoice {ref}", "I call back at 3", "Done, wrong VAT number"),
    ),
    "engineering": (
        ("Deploying {version} to staging in 10 min", "Hold on, migration {ref} is not merged", "Merged now",
         "Deployed, dashboards are green"),
        ("p95 of /search doubled since last night <https://graphs.example/d/search|graph>",
         "The new index is not used for short queries", "Rolled the flag back for {customer}", "p95 back to normal",
         "Post-mortem on {day}, I write it up"),
        ("Anybody else seeing `ECONNRESET` in CI? Build {ref} failed 3 times", "Runner 4 is out of disk",
         "Cleaned, retry please", "Green :green_heart:"),
        ("RFC: drop the nightly batch and read by cursor instead", "What happens after an outage?",
         "We go on from where the cursor stands, whatever the gap", "Then I like it. {who}?", "+1", "Merged"),
        ("if (a &lt; b &amp;&amp; b &gt; c) was never true in the retry code. How did this ever work?",
         "It did not :see_no_evil:", "Patch in {version}"),
    ),
    "product": (
        ("Interview notes from {customer}: they want mentions across tools in one list", "The third one asking",
         "Then it goes to the top for next quarter", "{who} can you size it?"),
        ("Mock-ups for the new onboarding are up, comments until {day}", "Step 3 feels long", "Good point, updated"),
    ),
    "leadership": (
        ("Board deck: numbers due on {day}. {who} pipeline please", "{amount} weighted", "Thanks, it is in"),
        ("Do we sign {customer} without the usual liability cap?", "No. Counter with twice the yearly fee"),
    ),
    "direct": (("Can you send me the contract of {customer} again?", "Sure, one minute"),),
}  # fmt: skip
NOTES: dict[str, tuple[str, ...]] = {
    "general": ("Good morning :sun_with_face:", "The coffee machine on 2 works again", "Fire drill at 11, a drill only",
                "Visitors from {customer} are here today", "<!here> parking lot closes at 20:00 tonight",
                "Lost: one grey scarf. Found: three umbrellas", "Cake in the kitchen :cake:", "Wifi is back"),
    "sales": ("Signed: {customer}, {amount} :moneybag:", "Moved {customer} to stage 4", "Out tomorrow, {who} covers",
              "{contact} is the new buyer at {customer}", "Forecast call at 9, numbers in by 8:30 please",
              "{customer} pushed the call to {day}", "Price list v{ref} is in the folder", "Demo with {contact} done"),
    "support": ("Queue is at {ref}, oldest is two days", "{customer} is happy again", "Shift handover done, two open",
                "<mailto:help@desk.example|help@desk.example> bounced for an hour, fixed", "#{ref} is a duplicate",
                "{contact} says thank you :heart:", "Phone line was down for 4 minutes", "Macro for refunds is live"),
    "engineering": ("Rotated the certificates on staging", "{version} is out", "On call from today: {who}",
                    "`make test` is 40% faster after #{ref}", "Please rebase, main moved a lot today",
                    "Database is on 17.2, no downtime", "Review of #{ref} please, a small one"),
    "product": ("Roadmap doc is updated", "Changelog for {version} is out", "NPS this month: {ref}"),
    "leadership": ("1:1s move to {day}", "Offer for the CS lead went out"),
    "direct": ("Thanks!", "👍", "Call me when you are back", "明日の資料、見ました。ありがとうございます"),
}  # fmt: skip
