"""What is said in a company's sales and success calls: a script for each kind of call.

Turns start with ``R`` our account owner, ``S`` our second person, ``C`` and ``D`` the customer's people.
Names in braces are filled in by `gong.Recorded.words`.
"""

from __future__ import annotations

from typing import NamedTuple


class Script(NamedTuple):
    """``sections``: (topic, turns). ``trackers``: words that Gong counts. ``steps``: what was agreed."""

    title: str
    brief: str
    points: tuple[str, ...]
    steps: tuple[str, ...]
    trackers: tuple[str, ...]
    sections: tuple[tuple[str, str], ...]
    language: str = "eng"


HELLO = """
R: Hi {c1}, good to see you. Can you hear me all right?
C: Loud and clear. {c2} is joining from the car, so be gentle with the slides.
D: I am here, just muted most of the time.
R: No problem. {s1} from our side is on as well, and we are recording for notes if that is fine with everybody.
C: Fine with us. I have a hard stop on the hour.
"""
BYE = """
R: Let me sum up what we said. {step1}. {step2}.
C: That matches my notes. Please put it in an email so that I can forward it.
R: You will have it today. Thanks, everybody.
D: Thank you, bye.
S: Bye all.
"""
SCRIPTS = (
    Script(
        "{us} / {them}: kickoff",
        "Kickoff of {product} with {them}. They start with {seats} seats and go live in {weeks} weeks.",
        ("Go-live planned in {weeks} weeks", "Single sign-on is a must before the pilot", "{c2} owns the import"),
        ("{r1} shares the project plan by {day}", "{c2} sends a sample export of last month's orders"),
        ("Timeline", "Security"),
        (
            ("Goals", """
R: Before we talk about dates, what has to be true in three months for you to call this a success?
C: Honestly, that nobody opens the old spreadsheet any more. We have {seats} people in it every morning.
S: Is it one spreadsheet or one per site?
C: One per site, and a fourth one that adds them up. The fourth one is mine, sadly.
R: Then let us make killing the fourth one the goal of the first month.
"""),
            ("Data import", """
S: For the import we need orders, customers and the price list. Do they come from the same system?
D: Orders and customers yes. The price list is a PDF that somebody types in.
S: We can live with a CSV for the price list. Is there a unique number per order?
D: There is, but it starts again every January. So you need the year as well.
S: Good to know now and not in week three. I will map it to year plus number.
"""),
            ("Access", """
C: Our security team will ask about single sign-on. They ask everybody.
S: We support SAML and OpenID. You create the app on your side, I send you the two addresses.
D: Do we need it before the pilot or can it wait?
R: I would do it first. Moving {seats} people later is more work than doing it right away.
C: Agreed. Put it before the pilot then.
"""),
        ),
    ),
    Script(
        "{product} demo for {them} 🚀",
        "First demo of {product} for {them}. They compare with {rival}; a trial with their own data was agreed.",
        ("{them} compares with {rival}", "Approvals on a phone are the key requirement", "Trial with real data agreed"),
        ("{s1} prepares a trial with one site's data", "{c1} invites finance to the next call on {day}"),
        ("Competitors", "Trial"),
        (
            ("Discovery", """
R: You wrote that approvals take too long. What does too long mean?
C: Four days on average. Two of them are waiting for me, to be fair.
R: And what triggers an approval?
C: Anything above five thousand. It used to be one thousand, but then I did nothing else.
D: And the sites found out how to split an order in six parts.
"""),
            ("Approvals", """
S: I will share my screen. This is an order as the site sees it, and here is the button that used to be an email.
C: And I get that on my phone?
S: You get a message with the amount, the supplier and what it does to the budget. You can approve from the message.
C: That alone would save me an hour a day.
D: What if the phone is offline?
S: Then it waits, and after a day it goes to the deputy you named.
"""),
            ("Audit trail", """
D: Our auditors ask who changed what. Today I answer with screenshots.
S: Every change is kept with the person and the time, and nothing is ever overwritten. Here is the list.
D: Can I export that list?
S: As a file, or through the interface if your auditors have a tool.
"""),
            ("Comparison", """
C: I should say that we look at {rival} as well. They are cheaper on paper.
R: They are good at what they do. May I ask what is missing on paper?
C: The approvals. They told us it is on the roadmap.
R: Then I would suggest that you see ours with your own data, not with my demo company.
C: Yes. Give us one site and two weeks.
"""),
        ),
    ),
    Script(
        "{them}: quarterly business review",
        "Review of the quarter with {them}: {percent} % of orders go through {product}. Reports are the weak spot.",
        ("{percent} % of orders run through {product}", "Month-end report is too slow", "Second region wants to join"),
        ("{s1} looks into the slow month-end report", "{r1} sends an offer for the second region"),
        ("Expansion", "Risk"),
        (
            ("Numbers", """
R: Here is the quarter on one slide. {percent} percent of your orders went through the tool, up from forty.
C: Which sites are the rest?
R: Mostly the harbour site. They have eleven active people out of thirty.
C: I can explain that. Their manager left in spring and the new one starts on {day}.
R: Then we offer a training for the new team, no charge.
"""),
            ("Complaints", """
D: I collected what people complain about. Number one is the report at the end of the month.
S: Is it wrong or is it slow?
D: Slow. You click and you get a coffee, and on bad days it times out.
S: How many lines does it have?
D: About ninety thousand since we added the second warehouse.
S: That should take seconds. Send me the name of the report and I will look at it this week.
"""),
            ("Second region", """
C: Good news as well. The southern region has seen it and wants it.
R: That is lovely to hear. How many people is that?
C: Another {seats}, and they have their own finance team.
R: Then they need their own space with shared suppliers. I will make an offer that shows both.
"""),
        ),
    ),
    Script(
        "{them} renewal",
        "Renewal talk with {them}. Procurement asks for a lower price; two years at {price} a year are on the table.",
        ("Renewal due at the end of {month}", "Procurement wants ten percent off", "Two-year term is possible"),
        ("{r1} sends the two-year offer by {day}", "{c2} checks the payment terms with legal"),
        ("Pricing", "Legal"),
        (
            ("State of things", """
R: Your contract runs until the end of {month}, so I wanted to talk before it becomes urgent.
C: I appreciate that. Last year we signed on the very last day.
R: I remember. I was at a wedding.
D: The users want to keep it, that is not the question. The question is the price.
"""),
            ("Price", """
D: Procurement has a rule this year. Every renewal has to come in ten percent lower.
R: I see. The list price went up by four, and I already left that out.
D: What can you do with a longer term?
R: With two years I can hold {price} a year. That is a little under what you pay now for more seats.
D: Put both in the offer, one year and two years, so that I can show a choice.
"""),
        ),
    ),
    Script(
        "Incident review with {them} (ticket {ticket})",
        "Review of ticket {ticket}: orders of {them} were delayed for three hours after a certificate expired.",
        ("An expired certificate stopped the interface", "{them} learned of it from its own users"),
        ("{s1} adds an alert thirty days before a certificate ends", "{r1} sends the written report by {day}"),
        ("Outage", "Churn risk"),
        (
            ("What happened", """
S: I will go through the timeline. At ten past six the certificate of the interface expired.
C: And nobody noticed?
S: Our monitor saw errors at twenty past. It took until half past eight to see that it was the certificate.
D: From our side, the first trucks were waiting at seven. We called the support line at ten past.
S: That call is what made us look at the right place. I am sorry that it took your call.
"""),
            ("Impact", """
R: Can you tell us what it meant for you?
C: Three hours, forty-one orders, two customers who called me on my private number.
R: Understood. Were any orders lost?
D: No. They all came in at nine, at the same time, which was its own kind of fun.
"""),
            ("Remedies", """
S: What we changed already: the certificate renews by itself, and there is an alert thirty days before it ends.
C: That covers this one. What about the next surprise?
S: Fair. We add a check that sends a test order every five minutes from outside.
D: And please tell us first. A message to the duty phone, even if you know nothing yet.
R: Yes. I will add the duty phone to the procedure today.
"""),
        ),
    ),
    Script(
        "{them} × {us} — pricing",
        "Pricing call with {them} about {seats} seats of {product}. A start with two sites fits into {price}.",
        ("Budget of {price} this year", "Start with two sites", "Decision in {month}"),
        ("{r1} sends a price for two sites by {day}", "{c1} takes it to the board in {month}"),
        ("Pricing", "Budget"),
        (
            ("Budget", """
R: I do not want to guess. Is there a number that works for this year?
C: There is {price} in the budget, and it has to cover the training.
R: With {seats} seats at list price we are above that, so let us look at what you need first.
C: Not everybody needs a full seat. Half of them only approve.
S: Approvers are free. That changes the sum quite a bit.
"""),
            ("Options", """
R: Option one is all sites now. Option two is two sites now and the rest in the new year.
D: Which one do other customers take?
R: Most start with two. The others learn from them, and the second wave is quicker.
C: I like two. It is also easier to explain to the board.
D: 予算の資料は田中さんにも送ってください。 Sorry, that was for my colleague next to me.
"""),
            ("Decision", """
R: Who else has to say yes?
C: The board, in {month}. They meet once a month and like one page.
R: Then I write one page. Two sites, one price, what it saves.
C: Perfect. No logos, please.
"""),
        ),
    ),
    Script(
        "Seguimiento con {them}",
        "Seguimiento mensual con {them}. El uso sube; piden un informe por centro y formación para el turno de noche.",
        ("El turno de noche necesita formación", "Piden un informe por centro"),
        ("{s1} prepara el informe por centro", "{c1} propone dos fechas para la formación"),
        ("Formación",),
        (
            ("Situación", """
R: Buenos días. ¿Cómo ha ido el mes?
C: Mejor de lo esperado. El turno de mañana ya no usa papel.
R: ¡Qué buena noticia! ¿Y el turno de noche?
C: Ahí seguimos igual. Son seis personas y nadie les ha explicado el cambio.
S: Podemos hacer una sesión de media hora al empezar el turno.
"""),
            ("Informe", """
D: Yo necesito el informe por centro y no por empresa. Ahora lo separo a mano.
S: ¿Qué columnas usa?
D: Pedidos, retrasos y devoluciones. Nada más.
S: Entonces lo preparo esta semana y lo revisamos el {day}.
"""),
        ),
        "spa",
    ),
)  # fmt: skip
VOICEMAIL = Script(
    "Call to {c1} ({them})",
    "Voicemail for {c1} about the order form.",
    (),
    ("{r1} tries again on {day}",),
    (),
    (("Voicemail", "R: Hi {c1}, this is {r1} from {us}. I missed you just now. It is about the order form. Bye."),),
    "und",
)
